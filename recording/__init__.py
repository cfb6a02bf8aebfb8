"""Recording cassettes, and settling what is assumed about the service."""
