CREATE DATABASE service; -- plays the database of the hooked service
