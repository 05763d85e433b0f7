# tetherd: `make` builds the daemon, `make help` lists the rest.

VERSION := 0.1.0
PREFIX ?= /usr
DESTDIR ?=
CC ?= cc
B ?= build

PACKAGES := libsystemd inih
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wvla \
            -Wformat=2
HARDENING := -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE
CFLAGS ?= -O2 -g
# The life of a connection runs through small functions of many files. Not with clang, which needs a plugin of the linker.
LTO ?= $(if $(findstring gcc version,$(shell $(CC) -v 2>&1)),-flto=auto)
ALL_CFLAGS = -std=gnu11 $(WARNINGS) $(HARDENING) $(CFLAGS) -D_GNU_SOURCE -DTETHERD_VERSION='"$(VERSION)"' \
             -Isrc $(shell pkg-config --cflags $(PACKAGES))
# The calls of src/include/tetherd/plugin.h, and nothing else, are there for the shared objects that we load.
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now '-Wl,--export-dynamic-symbol=tetherd_*' $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PACKAGES))

# In layer order. Nothing calls upward: a unit test names the objects that it links, and would not link.
BASE := $(addprefix base/,address span cidr rules words fields slab index unitname object)
LOOP := $(addprefix loop/,loop timer slice child lines sync)
JOURNAL := $(addprefix journal/,record ring limit pace sink journal events)
CONFIG := $(addprefix config/,ini suggest keys number value section check print config)
SERVICE := $(addprefix service/,notify fds store manager lock ids unit bus)
RESOURCE := $(addprefix resource/,resource environment none tree directory saved command exec pool process unit request program helper queue lease text ledger)
HANDLER := $(addprefix handler/,handler plugin)
CONNECTION := $(addprefix connection/,cause admission proxy handshake machine stream guest connection snapshot listening listener explain)
DAEMON := $(addprefix daemon/,daemon privileges preserve recover reload report stop summary)
SOURCES := $(BASE) $(LOOP) $(JOURNAL) $(CONFIG) $(SERVICE) $(RESOURCE) $(HANDLER) $(CONNECTION) $(DAEMON) main

.PHONY: all
all: $(B)/tetherd ## build the daemon

$(B)/tetherd: $(SOURCES:%=$(B)/daemon/%.o)
	$(CC) $(ALL_CFLAGS) $(LTO) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/daemon/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LTO) -MMD -MP -c -o $@ $<

# What tests link.
$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# ---- tests: each names what it links ----

UNIT_timer := loop/timer
UNIT_span := base/span
UNIT_pace := journal/pace
UNIT_words := base/words
UNIT_address := base/address
UNIT_cidr := $(addprefix base/,address span cidr rules)
UNIT_config := $(addprefix base/,address span cidr rules words unitname object) $(CONFIG)
UNIT_journal := base/address base/span $(JOURNAL)
UNIT_events := base/address base/span $(JOURNAL)
UNIT_notify := service/notify
UNIT_fds := service/notify service/fds
UNIT_store := base/words base/fields $(addprefix service/,notify fds store)
UNIT_slice := loop/slice
UNIT_child := base/words $(LOOP)
UNIT_environment := base/address base/words base/fields loop/loop loop/timer resource/environment
UNIT_directory := base/address base/words base/fields $(LOOP) $(addprefix resource/,environment directory tree)
UNIT_exec := $(addprefix base/,address span words fields index unitname) $(LOOP) service/bus $(addprefix resource/,resource environment none directory command exec pool process tree unit saved request program helper)
UNIT_process := $(UNIT_exec)
UNIT_request := resource/request
UNIT_helper := $(UNIT_exec)
UNIT_slab := base/slab
UNIT_cause := connection/cause
UNIT_admission := $(addprefix base/,address span cidr rules slab) connection/admission
UNIT_machine := connection/machine
UNIT_proxy := base/address connection/proxy
UNIT_handshake := base/address connection/proxy connection/handshake
UNIT_index := base/index
UNIT_unitname := base/unitname
UNIT_unit-resource := $(addprefix base/,address words fields index unitname) loop/loop loop/timer $(addprefix resource/,environment unit)
UNIT_plugin := base/object handler/plugin
UNIT_lock := service/lock
UNIT_ids := service/ids
UNIT_loop := loop/timer loop/loop
UNIT_sync := loop/timer loop/loop loop/sync
UNIT_queue := loop/timer loop/loop resource/queue
UNIT_lease := base/address base/span base/words base/fields $(addprefix loop/,timer loop slice child) $(addprefix resource/,environment queue lease text ledger)
UNIT_ledger := $(UNIT_lease)
UNIT_pool := $(UNIT_lease) base/index resource/pool
UNIT_connection := $(BASE) $(addprefix loop/,timer loop slice child) $(addprefix service/,notify fds unit store) $(addprefix resource/,environment queue lease text ledger) $(HANDLER) $(CONNECTION)
UNIT := timer span pace words address cidr config journal events notify fds store slice child environment directory exec process unit-resource request helper slab index unitname cause machine admission proxy handshake lock ids loop sync queue lease ledger pool plugin connection

define unit-test
$(B)/tests/unit/test-$(1): $(B)/tests/unit/test-$(1).o $(UNIT_$(1):%=$(B)/src/%.o)
	$$(CC) $$(ALL_CFLAGS) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS) $$(shell pkg-config --libs check)
endef
$(foreach test,$(UNIT),$(eval $(call unit-test,$(test))))

# Shared objects for tests, as anybody builds one: with nothing of ours but the header.
PLUGIN_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(WARNINGS) -O2 -g -fPIC -fvisibility=hidden $(filter -Werror,$(CFLAGS)) -Isrc/include
VARIANTS := good old abi small newer nameless null unresolved

$(B)/tests/plugins/variant-%.so: tests/plugins/variant.c src/include/tetherd/plugin.h Makefile
	@mkdir -p $(@D)
	$(CC) $(PLUGIN_CFLAGS) -DVARIANT=$* -shared -o $@ $<

$(B)/tests/plugins/%.so: tests/plugins/%.c src/include/tetherd/plugin.h Makefile
	@mkdir -p $(@D)
	$(CC) $(PLUGIN_CFLAGS) -shared -o $@ $< -pthread

$(B)/tests/unit/test-plugin: | $(VARIANTS:%=$(B)/tests/plugins/variant-%.so) $(B)/tests/plugins/nothing.so

# Each fuzz target is also linked to replay.c, which feeds it the inputs that are kept in tests/fuzz/corpus.
FUZZ_proxy := base/address connection/proxy
FUZZ_handshake := base/address connection/proxy connection/handshake
FUZZ_ini := $(UNIT_config)
FUZZ_words := base/words
FUZZ_helper := resource/request
FUZZ_ledger := $(addprefix base/,address span words fields index unitname) $(LOOP) service/bus $(RESOURCE)
FUZZ := proxy handshake ini words ledger helper
FUZZ_SECONDS ?= 60

define fuzz-target
$(B)/tests/fuzz/replay-$(1): $(B)/tests/fuzz/replay.o
$(B)/tests/fuzz/replay-$(1) $(B)/tests/fuzz/fuzz-$(1): $(B)/tests/fuzz/$(1).o $(FUZZ_$(1):%=$(B)/src/%.o)
	$$(CC) $$(ALL_CFLAGS) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS)
endef
$(foreach target,$(FUZZ),$(eval $(call fuzz-target,$(target))))

.PHONY: check-unit
check-unit: $(FUZZ:%=$(B)/tests/fuzz/replay-%) $(UNIT:%=$(B)/tests/unit/test-%) ## run the unit tests, and what the fuzzers found before
	@for target in $(FUZZ); do \
	        echo "== $(B)/tests/fuzz/replay-$$target"; \
	        $(B)/tests/fuzz/replay-$$target tests/fuzz/corpus/$$target || exit 1; \
	done
	@for test in $(UNIT:%=$(B)/tests/unit/test-%); do echo "== $$test"; $$test || exit 1; done

FUZZ_FLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -U_FORTIFY_SOURCE

.PHONY: fuzz
fuzz: ## look for inputs that break the parsers, FUZZ_SECONDS=60 each, three at a time (needs clang)
	$(MAKE) B=$(B)/fuzz CC=clang CFLAGS='$(FUZZ_FLAGS)' LDFLAGS=-fsanitize=fuzzer $(FUZZ:%=$(B)/fuzz/tests/fuzz/fuzz-%)
	@printf '%s\n' $(FUZZ) | xargs -P 3 -I {} tests/fuzz/run $(B)/fuzz {} $(FUZZ_SECONDS)

KERNEL := death socket

$(B)/tests/kernel/test-%: $(B)/tests/kernel/test-%.o
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(shell pkg-config --libs check)

.PHONY: check-kernel
check-kernel: $(KERNEL:%=$(B)/tests/kernel/test-%) ## see whether this kernel does what we rely on
	@for test in $^; do echo "== $$test"; $$test || exit 1; done

.PHONY: check-system
check-system: $(B)/tetherd $(B)/tests/plugins/recorder.so ## play the stories of tests/system (STORIES="life echo" for some)
	TETHERD=$(abspath $(B)/tetherd) tests/system/run $(STORIES)

.PHONY: check-network
check-network: $(B)/tetherd ## play those of tests/system/network alone: machines made of namespaces (about 95 s)
	TETHERD=$(abspath $(B)/tetherd) tests/system/run network

.PHONY: check-attack
check-attack: $(B)/tetherd ## play that of tests/system alone which attacks the daemon (about 60 s)
	TETHERD=$(abspath $(B)/tetherd) tests/system/run attack

.PHONY: check-service
check-service: $(B)/tetherd $(B)/tests/plugins/echo.so $(B)/tests/plugins/recorder.so ## play the stories of tests/service, in a whole booted systemd (STORIES="install" for some)
	TETHERD=$(abspath $(B)/tetherd) tests/service/run $(STORIES)

# Daemons of their own, with our calls that may fail led through faults.c, which alone lists them. Nothing is inlined,
# so that a chain of callers is the same in both; undefined behaviour is a trap, which starts faster than its library.
FAULTS_FLAGS := -O1 -g -fno-inline -fno-omit-frame-pointer -U_FORTIFY_SOURCE
FAULTS_SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fsanitize-undefined-trap-on-error

$(B)/tests/faults/tetherd: $(B)/tests/faults/faults.o $(SOURCES:%=$(B)/src/%.o) | $(B)/tests/plugins/echo.so
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $$(nm $< | sed -n 's/.* T __wrap_/-Wl,--wrap=/p') -o $@ $^ $(LIBS)

.PHONY: check-faults
check-faults: F = $(abspath $(B)/faults)
check-faults: ## make each call that may fail, fail: every time that it is made in a whole life (about 3 minutes)
	$(MAKE) -j 2 B=$F/plain CFLAGS='$(FAULTS_FLAGS)' $F/plain/tests/faults/tetherd
	$(MAKE) -j 2 B=$F/sanitized CFLAGS='$(FAULTS_FLAGS) $(FAULTS_SANITIZERS)' $F/sanitized/tests/faults/tetherd
	TETHERD=$F/plain/tests/faults/tetherd SANITIZED=$F/sanitized/tests/faults/tetherd tests/faults/run

SOAK_SECONDS ?= 600

.PHONY: soak
soak: $(B)/tetherd ## random deaths, reloads and restarts for SOAK_SECONDS (600); then the books, and memory
	TETHERD=$(abspath $(B)/tetherd) SOAK_SECONDS=$(SOAK_SECONDS) python3 -B tests/soak/soak.py

BENCH := floor journal load crowd simulate helper callback child
BENCH_simulate := $(addprefix base/,address span cidr rules slab) loop/timer loop/loop connection/admission
BENCH_callback := $(filter-out main,$(SOURCES))
BENCH_LIBS_journal = $(LIBS)
BENCH_LIBS_simulate = $(LIBS) -Wl,--wrap=epoll_ctl,--wrap=epoll_wait
BENCH_LIBS_callback = $(LIBS)

define bench-program
$(B)/tests/bench/$(1): $(B)/tests/bench/$(1).o $(BENCH_$(1):%=$(B)/src/%.o)
	$$(CC) $$(ALL_CFLAGS) $$(ALL_LDFLAGS) -o $$@ $$^ $$(BENCH_LIBS_$(1))
endef
$(foreach program,$(BENCH),$(eval $(call bench-program,$(program))))

.PHONY: bench
bench: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## measure it beside a bare loop and its peers (about 15 minutes; PARTS="lives idle" for some, ROUNDS=9 for more than 5)
	@tests/bench/peers/build $(B)/tests/bench/peers
	@python3 -B tests/bench/bench.py $(PARTS:%=--only %) $(ROUNDS:%=--rounds %) --write $(B)/bench.md $(B)/tests/bench $(B)/tetherd

.PHONY: check-bench
check-bench: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## see that what measures it still runs (about a minute)
	python3 -B tests/bench/bench.py --rounds 2 --only lives --only calls --only records --only callback $(B)/tests/bench $(B)/tetherd
	$(B)/tests/bench/simulate 10000 1000 2
	$(B)/tests/bench/simulate 10000 1000 2 sockets

.PHONY: bench-million
bench-million: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## hold a million connections, and reset one instance's (about 5 minutes, 10 GB)
	@python3 -B tests/bench/million.py $(B)/tests/bench $(B)/tetherd

.PHONY: bench-restart
bench-restart: $(B)/tetherd $(B)/tests/bench/load ## what a restart takes, and what preserve = always does, in a booted machine (about 60 s)
	@TETHERD=$(abspath $(B)/tetherd) tests/service/run --in tests/bench restart

.PHONY: bench-resources
bench-resources: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## loads and releases a second, by type of resource
	@python3 -B tests/bench/resources.py $(B)/tests/bench $(B)/tetherd

.PHONY: bench-process
bench-process: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## children a second beside tcpserver and xinetd, if they are there
	@python3 -B tests/bench/process.py $(B)/tests/bench $(B)/tetherd

.PHONY: check-man
check-man: $(B)/tetherd ## check that the manual names every key, event, cause and option, and is well formed
	TETHERD=$(abspath $(B)/tetherd) tests/man

.PHONY: demo
demo: $(B)/tetherd ## four clients end in four ways; shows what was recorded of each
	TETHERD=$(abspath $(B)/tetherd) tests/demo

# ---- installing: the binary looks for its configuration in /etc, journalctl for catalogs in /usr/lib ----

UNITS := $(PREFIX)/lib/systemd/system
SHARE := $(PREFIX)/share
OWN := $(SHARE)/tetherd $(PREFIX)/lib/tetherd $(PREFIX)/include/tetherd $(SHARE)/pkgconfig $(SHARE)/man/man3 /etc/tetherd
# source:target:mode
FILES := systemd/tetherd.socket:$(UNITS)/tetherd.socket:644 \
         systemd/tetherd.sysusers:$(PREFIX)/lib/sysusers.d/tetherd.conf:644 \
         systemd/tetherd.tmpfiles:$(PREFIX)/lib/tmpfiles.d/tetherd.conf:644 \
         systemd/tetherd.catalog:/usr/lib/systemd/catalog/tetherd.catalog:644 \
         systemd/tetherd.bash-completion:$(SHARE)/bash-completion/completions/tetherd:644 \
         $(foreach name,ports users devices,systemd/drop-ins/$(name).conf:$(SHARE)/tetherd/drop-ins/$(name).conf:644) \
         $(foreach name,session-up session-down helper.py helper.sh,conf/examples/$(name):$(PREFIX)/lib/tetherd/examples/$(name):755) \
         conf/examples/chat.c:$(SHARE)/tetherd/examples/chat.c:644 \
         src/include/tetherd/plugin.h:$(PREFIX)/include/tetherd/plugin.h:644 \
         man/tetherd-plugin.3:$(SHARE)/man/man3/tetherd-plugin.3:644 \
         man/tetherd.8:$(SHARE)/man/man8/tetherd.8:644 \
         man/tetherd.conf.5:$(SHARE)/man/man5/tetherd.conf.5:644
# The administrator's, once they are there.
CONFIGS := conf/tetherd.conf:/etc/tetherd/tetherd.conf \
           systemd/tetherd.rules:/etc/polkit-1/rules.d/50-tetherd.rules
INSTALLED := $(PREFIX)/sbin/tetherd $(UNITS)/tetherd.service $(UNITS)/tetherd@.service \
             $(SHARE)/pkgconfig/tetherd-plugin.pc \
             $(foreach file,$(FILES),$(word 2,$(subst :, ,$(file))))

FOR_PREFIX = sed -e 's|/usr/sbin/|$(PREFIX)/sbin/|'
FOR_INSTANCE = sed -e '1,2d' -e 's|^Description=.*|&, %i|' -e 's|/sbin/tetherd$$|& -c /etc/tetherd/%i.conf|' \
                   -e 's/^\(Runtime\|State\)Directory=tetherd$$/&-%i/'

# Of the machine that runs; a DESTDIR is an image of another one.
define tell-systemd
	@if [ -z "$(DESTDIR)" ] && command -v journalctl >/dev/null; then journalctl --update-catalog; fi
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endef

.PHONY: install
install: $(B)/tetherd ## install below DESTDIR and PREFIX (default: / and /usr)
	install -D -m 755 $(B)/tetherd $(DESTDIR)$(PREFIX)/sbin/tetherd
	@set -e; for file in $(FILES); do \
	        echo "$$file" | { IFS=: read -r source target mode; install -v -D -m $$mode $$source $(DESTDIR)$$target; }; \
	done
	@set -e; for file in $(CONFIGS); do \
	        target=$(DESTDIR)$${file#*:}; test -e $$target || install -v -D -m 644 $${file%:*} $$target; \
	done
	install -d $(DESTDIR)$(UNITS)
	$(FOR_PREFIX) systemd/tetherd.service >$(DESTDIR)$(UNITS)/tetherd.service
	$(FOR_INSTANCE) $(DESTDIR)$(UNITS)/tetherd.service >$(DESTDIR)$(UNITS)/tetherd@.service
	install -d $(DESTDIR)$(SHARE)/pkgconfig
	sed -e 's|^prefix=.*|prefix=$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' src/include/tetherd-plugin.pc \
	        >$(DESTDIR)$(SHARE)/pkgconfig/tetherd-plugin.pc
	@if [ -z "$(DESTDIR)" ] && command -v systemd-sysusers >/dev/null; then \
	        systemd-sysusers $(PREFIX)/lib/sysusers.d/tetherd.conf; fi
	$(tell-systemd)

.PHONY: uninstall
uninstall: ## remove what was installed; a configuration that was changed stays
	rm -f $(INSTALLED:%=$(DESTDIR)%)
	@set -e; for file in $(CONFIGS); do \
	        target=$(DESTDIR)$${file#*:}; ! cmp -s $${file%:*} $$target || rm -v $$target; \
	done
	@for folder in $(OWN:%=$(DESTDIR)%); do \
	        ! test -d $$folder || find $$folder -depth -type d -exec rmdir --ignore-fail-on-non-empty {} +; \
	done
	@test -d $(DESTDIR)/usr/share/polkit-1 || ! test -d $(DESTDIR)/etc/polkit-1/rules.d || \
	        rmdir --ignore-fail-on-non-empty $(DESTDIR)/etc/polkit-1/rules.d $(DESTDIR)/etc/polkit-1
	$(tell-systemd)

# ---- all of it ----

.PHONY: tests
tests: $(UNIT:%=$(B)/tests/unit/test-%) $(FUZZ:%=$(B)/tests/fuzz/replay-%) $(KERNEL:%=$(B)/tests/kernel/test-%) $(BENCH:%=$(B)/tests/bench/%) ## build every test

.PHONY: check
check: check-man check-system check-kernel check-unit ## run all the tests

# valgrind knows neither pidfd_open(2) nor a child that shares our memory, nor the AIO of an fsync: what starts programs
# or syncs is left to the sanitizers.
.PHONY: check-valgrind
check-valgrind: $(filter-out %-child %-directory %-exec %-helper %-process %-sync,$(UNIT:%=$(B)/tests/unit/test-%)) ## run the unit and loopback tests under valgrind
	@printf '%s\n' $^ | CK_TIMEOUT_MULTIPLIER=10 RUNS_UNDER_VALGRIND=yes xargs -P 2 -I {} sh -c \
	        'echo "== {}"; valgrind -q --error-exitcode=99 --leak-check=full {}'

.PHONY: lint
lint: ## check the layout, the shell scripts and the Python programs
	clang-format --dry-run --Werror $$(git ls-files '*.[ch]')
	shellcheck .ci/run tests/install-packages tests/demo tests/system/journald tests/fuzz/run tests/bench/peers/build conf/examples/session-* conf/examples/*.sh
	shellcheck --shell=bash --exclude=SC2034,SC2207 systemd/tetherd.bash-completion # as is the custom there
	pyflakes3 $$(git ls-files '*.py') tests/system/run tests/faults/run tests/service/run

.PHONY: format
format: ## lay out the code as .clang-format says
	clang-format -i $$(git ls-files '*.[ch]')

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(B)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

-include $(shell find $(B) -path $(B)/service -prune -o -path $(B)/tests/bench/peers -prune -o -type f -name '*.d' -print 2>/dev/null)
