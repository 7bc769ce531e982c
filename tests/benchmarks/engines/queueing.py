def main(rounds=1):
    pass
