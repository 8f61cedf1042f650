"""The whole server: Ray, MongoDB and S3 as `darkroom serve` starts them, spoken to as clients do."""
