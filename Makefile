# make run     set up once, then serve the bundled model, or the one pulled last   (make run ARGS="--port 9000")
# make chat    set up once, then talk with it in the terminal
# make test    every check that CI runs
# make setup   only set up

.PHONY: run chat test setup clean

run: setup
	@exec .venv/bin/spillover serve $(ARGS)

chat: setup
	@exec .venv/bin/spillover chat $(ARGS)

test:
	@exec .ci/run

setup:
	@.ci/setup

clean:
	rm -rf .venv build dist spillover.egg-info
