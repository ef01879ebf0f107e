"""A detector and pictures -> what it finds: in a folder or behind an address, in some pictures or in millions."""
