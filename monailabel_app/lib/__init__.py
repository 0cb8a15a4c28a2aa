"""What the app is made of: MONAI Label's tasks, the job API, and the guard around both."""
