"""The formats that come with reportkit."""
