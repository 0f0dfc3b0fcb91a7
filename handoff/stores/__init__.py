"""Where finished jobs are published: one contract (`contract`), kept by a plain folder (`folder`) and by S3 (`s3`).

`handoff.stores.s3` costs 0.3 s and 70 MB to import; import it only where a bucket is used.
"""
