"""The outside world: HTTP, jobs, tenants, and the Ray Serve deployments."""
