"""Analysts' questions: a catalogue of reports in SQL, refreshed at times, and shown as tables, files and charts."""
