"""The commands of profile-device."""
