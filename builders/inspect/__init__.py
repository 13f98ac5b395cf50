"""What `grace verify`, `lineage`, `diff` and `status` find out, as data."""
