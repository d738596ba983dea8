"""The wire to a phone: adb's protocol, directly or through a server."""
