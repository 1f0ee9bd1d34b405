"""May the numbers be used?"""
