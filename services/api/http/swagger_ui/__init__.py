"""The files of Swagger UI, for `/docs`; README.md has their version and licence."""
