"""Azure Resource Manager: the subscription, the workspace, its service addresses and its attached computes."""
