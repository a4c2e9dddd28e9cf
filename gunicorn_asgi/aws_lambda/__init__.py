"""AWS Lambda: invocations of the Runtime API, served by the application as requests."""
