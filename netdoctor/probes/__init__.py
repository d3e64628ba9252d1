"""What touches torch while it trains."""
