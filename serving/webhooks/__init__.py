"""News of jobs for their owners: endpoints, what is on its way to them, and its delivery (Standard Webhooks)."""
