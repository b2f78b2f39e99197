"""Every copy of a member's points and profile beside every other -> the differences, each with its event and its cause; they are mended by
publishing what the log holds once more, never by writing into a store. README.md says what is compared with what.
"""
