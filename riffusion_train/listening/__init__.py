"""How clips sound: embeddings and tags, and the figures that compare generated clips with real ones."""
