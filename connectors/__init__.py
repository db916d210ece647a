"""Gateways to MongoDB and Qdrant, and the Bytewax sources and sinks over them."""
