"""The floor under all rooms: errors, files, texts, the machinery of commands. It imports nothing of ours."""
