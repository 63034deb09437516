"""The model's parts: building, loading, adapting and averaging them."""
