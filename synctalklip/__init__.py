"""SyncTalklip: talking faces whose lips are in sync with the speech and can be read (ACM MM 2024)."""

__version__ = "0.1.0"
