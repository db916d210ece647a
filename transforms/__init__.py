"""Pure steps from a MongoDB document to the plan of what to write. No I/O."""
