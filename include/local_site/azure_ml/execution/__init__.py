"""Submitted runs, and how they really run: over SSH on the attached virtual machine."""
