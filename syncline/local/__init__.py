"""Local stand-ins for servers, started as processes of their own on 127.0.0.1."""
