"""Who can make what a job asks for: our own engines here, providers beside them."""
