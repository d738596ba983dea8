"""Timing through the native runner, a program of its own on the device."""
