"""Who may make, send and get what: scores of the moderator against the policy of a tenant."""
