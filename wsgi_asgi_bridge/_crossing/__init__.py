"""Threads and event loops. No HTTP word here: callbacks, bytes and endings cross."""
