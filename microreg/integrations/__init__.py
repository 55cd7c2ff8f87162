"""What plugs microreg into other packages; each module is imported only by who uses it."""
