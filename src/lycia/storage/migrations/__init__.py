"""The forms that a coordinator's database has had, one after the other: each page turns the last form into the next."""
