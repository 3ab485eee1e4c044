def check(config): pass
