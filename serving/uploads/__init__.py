"""Pictures and videos that clients bring: announced, sent, looked at, kept once, and what is made of them."""
