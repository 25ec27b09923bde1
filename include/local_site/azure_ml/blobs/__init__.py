"""The storage account behind the workspace: opaque keys, reached with signed URLs only."""
