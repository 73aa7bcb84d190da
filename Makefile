# make demo: captions from the bundled recording. make test: the whole suite. Both set everything up by themselves.

PYTHON ?= python3
TORCH_INDEX ?=  # another package index for torch alone, such as one with CPU builds

DEV = .venv#       everything, torch included: tests, export, training, benchmark
DEMO = .venv-demo# what a robot needs: no torch
TORCH = torch==2.13.0

.PHONY: setup demo test lint bench soak clean mosquitto python install-service service-files service-environment uninstall-service

setup: $(DEV)/.ready

demo: $(DEMO)/.ready
	@$(DEMO)/bin/event-captioner demo

# Two processes of one thread each; tests/conftest.py says which tests stay together.
test: mosquitto $(DEV)/.ready
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n 2

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy --strict app models export

bench: $(DEV)/.ready
	$(DEV)/bin/event-captioner bench --peer transformers

soak: mosquitto $(DEV)/.ready
	$(DEV)/bin/python -m pytest -m slow -rs --timeout=3600

clean:
	rm -rf $(DEV) $(DEMO) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The service: program in /opt, configuration in /etc, state in /var/lib. Run as root; DESTDIR is for packagers and tests.
OPT = /opt/event-captioner
ETC = /etc/event-captioner
UNIT = /etc/systemd/system/event-captioner.service
RULES = /etc/udev/rules.d/65-event-captioner.rules
PROGRAM = app models export configs docs systemd pyproject.toml README.md LICENSE

install-service: service-files service-environment
	@for group in video plugdev render; do getent group $$group >/dev/null || groupadd --system $$group; done
	@systemctl daemon-reload && udevadm control --reload && udevadm trigger --subsystem-match=usb
	@echo 'edit $(ETC)/config.yaml, then: systemctl enable --now event-captioner'

service-files:
	@install -d '$(DESTDIR)$(OPT)' '$(DESTDIR)$(ETC)' '$(DESTDIR)$(dir $(UNIT))' '$(DESTDIR)$(dir $(RULES))'
	@rm -rf $(foreach part,$(PROGRAM),'$(DESTDIR)$(OPT)/$(part)')
	@cp -R $(PROGRAM) '$(DESTDIR)$(OPT)/'
	@find '$(DESTDIR)$(OPT)' -name __pycache__ -prune -exec rm -rf {} +
	@chmod -R u+rwX,go+rX,go-w '$(DESTDIR)$(OPT)'
	@install -m 644 systemd/event-captioner.service '$(DESTDIR)$(UNIT)'
	@install -m 644 systemd/65-event-captioner.rules '$(DESTDIR)$(RULES)'
	@test -e '$(DESTDIR)$(ETC)/config.yaml' || install -m 644 configs/synthetic-live.yaml '$(DESTDIR)$(ETC)/config.yaml'

# The interpreter must be the system's: one in a home directory is hidden from the service.
service-environment: | python
	@$(PYTHON) -m venv --copies '$(OPT)/venv'
	@'$(OPT)/venv/bin/python' -m pip install --quiet -e '$(OPT)'

# State and configuration stay unless PURGE=1.
uninstall-service:
	@test -n '$(DESTDIR)' || systemctl disable --now event-captioner 2>/dev/null || true
	@rm -rf '$(DESTDIR)$(OPT)' '$(DESTDIR)$(UNIT)' '$(DESTDIR)$(RULES)'
	@test -z '$(PURGE)' || rm -rf '$(DESTDIR)$(ETC)' '$(DESTDIR)/var/lib/event-captioner' '$(DESTDIR)/var/lib/private/event-captioner' '$(DESTDIR)/var/cache/event-captioner' '$(DESTDIR)/var/cache/private/event-captioner'
	@test -n '$(DESTDIR)' || systemctl daemon-reload

# A stamp newer than pyproject.toml makes the second call instant.
$(DEMO)/.ready: pyproject.toml | python
	@echo 'setting up $(DEMO) (downloads about 150 MB) ...'
	@$(PYTHON) -m venv $(DEMO)
	@$(DEMO)/bin/python -m pip install --quiet --no-compile -e '.[demo]'
	@touch $@

# torch first and by itself: only this call may use another index.
$(DEV)/.ready: pyproject.toml | python
	@echo 'setting up $(DEV), torch included (minutes) ...'
	@$(PYTHON) -m venv $(DEV)
	@$(DEV)/bin/python -m pip install --quiet $(if $(strip $(TORCH_INDEX)),--index-url $(strip $(TORCH_INDEX))) $(TORCH)
	@$(DEV)/bin/python -m pip install --quiet -e '.[demo,torch,dev]'
	@touch $@

python:
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: $(PYTHON) must be Python 3.11 or newer with venv: sudo apt install python3-venv, or PYTHON=python3.12" >&2; exit 1; }

mosquitto:
	@PATH="$$PATH:/usr/sbin" command -v mosquitto >/dev/null || \
	  { echo "make: the tests need a real broker: sudo apt install mosquitto mosquitto-clients" >&2; exit 1; }
