"""Work that rows of PostgreSQL describe: claim, lease, fence, retry."""
