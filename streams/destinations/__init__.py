"""Where webhooks go, managed at run time: what a destination is, its sealed secrets, the control topic, the command line."""
