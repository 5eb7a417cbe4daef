"""`clipcls serve`: classification over HTTP."""
