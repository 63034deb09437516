"""The three layouts of a dataset's pictures on the disk: Parquet shards, a folder of pictures, WebDataset shards."""
