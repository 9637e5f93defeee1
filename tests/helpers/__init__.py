"""What several test folders share: small slides, tables, data sets and networks, and ways to call the command line."""
