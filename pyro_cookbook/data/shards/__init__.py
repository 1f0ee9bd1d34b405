"""Tables that are larger than memory: folders of Parquet files, read row group by row group."""
