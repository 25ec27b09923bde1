"""What the triggerer runs while a task waits."""
