"""Readers of tables that others published; more can be added as plug-ins, see `bpnas.tables.readers.reader`."""
