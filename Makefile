# make run     set up once, then serve the bundled model, or the one pulled last   (make run ARGS="--port 9000")
# make chat    set up once, then talk with it in the terminal
# make test    every check that CI runs
# make setup   only set up, with llama.cpp

.PHONY: run chat test setup clean

run:
	@exec .ci/start serve $(ARGS)

chat:
	@exec .ci/start chat $(ARGS)

test:
	@exec .ci/run

setup:
	@exec .ci/setup all

clean:
	rm -rf .venv .venv-clients tests/clients/node_modules build dist spillover.egg-info
