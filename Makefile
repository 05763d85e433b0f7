# tetherd: `make` builds the daemon, `make help` lists the rest.

VERSION := 0.1.0
PREFIX ?= /usr
SYSCONFDIR ?= /etc
DESTDIR ?=
CC ?= cc
B ?= build

PACKAGES := libsystemd inih
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wvla \
            -Wformat=2
HARDENING := -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(WARNINGS) $(HARDENING) $(CFLAGS) -D_GNU_SOURCE -DTETHERD_VERSION='"$(VERSION)"' \
             -Isrc $(shell pkg-config --cflags $(PACKAGES))
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PACKAGES))

# In layer order. Nothing calls upward: a unit test names the objects that it links, and would not link.
BASE := $(addprefix base/,address span words slab)
LOOP := $(addprefix loop/,loop timer child lines)
JOURNAL := $(addprefix journal/,record ring limit sink journal events)
CONFIG := $(addprefix config/,ini suggest keys number value section check print config)
SERVICE := $(addprefix service/,notify lock ids)
RESOURCE := $(addprefix resource/,resource environment none tree directory exec lease ledger)
HANDLER := handler/handler
CONNECTION := $(addprefix connection/,cause handshake machine stream connection listener)
DAEMON := $(addprefix daemon/,daemon reload)
SOURCES := $(BASE) $(LOOP) $(JOURNAL) $(CONFIG) $(SERVICE) $(RESOURCE) $(HANDLER) $(CONNECTION) $(DAEMON) main

.PHONY: all
all: $(B)/tetherd ## build the daemon

$(B)/tetherd: $(SOURCES:%=$(B)/src/%.o)
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# ---- tests: each names what it links ----

UNIT_timer := loop/timer
UNIT_span := base/span
UNIT_words := base/words
UNIT_address := base/address
UNIT_config := base/address base/span base/words $(CONFIG)
UNIT_journal := base/address base/span $(JOURNAL)
UNIT_events := base/address base/span $(JOURNAL)
UNIT_notify := service/notify
UNIT_child := base/words $(LOOP)
UNIT_environment := base/address base/words resource/environment
UNIT_directory := base/address base/words $(LOOP) $(addprefix resource/,environment directory tree)
UNIT_exec := base/address base/words $(LOOP) $(addprefix resource/,resource environment none directory exec tree)
UNIT_slab := base/slab
UNIT_cause := connection/cause
UNIT_machine := connection/machine
UNIT_handshake := connection/handshake
UNIT_lock := service/lock
UNIT_ids := service/ids
UNIT_loop := loop/timer loop/loop
UNIT := timer span words address config journal events notify child environment directory exec slab cause machine handshake lock ids loop

define unit-test
$(B)/tests/unit/test-$(1): $(B)/tests/unit/test-$(1).o $(UNIT_$(1):%=$(B)/src/%.o)
	$$(CC) $$(ALL_CFLAGS) $$(ALL_LDFLAGS) -o $$@ $$^ $$(LIBS) $$(shell pkg-config --libs check)
endef
$(foreach test,$(UNIT),$(eval $(call unit-test,$(test))))

.PHONY: check-unit
check-unit: $(UNIT:%=$(B)/tests/unit/test-%) ## run the unit tests
	@for test in $^; do echo "== $$test"; $(RUN) ./$$test || exit 1; done

.PHONY: check-system
check-system: $(B)/tetherd ## play the stories of tests/system (STORIES="life echo" for some)
	TETHERD=$(abspath $(B)/tetherd) tests/system/run $(STORIES)

BENCH := floor load

$(BENCH:%=$(B)/tests/bench/%): %: %.o
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^

.PHONY: bench
bench: $(B)/tetherd $(BENCH:%=$(B)/tests/bench/%) ## CPU, memory and system calls beside a bare loop (about 70 s)
	@python3 -B tests/bench/bench.py $(B)/tests/bench $(B)/tetherd

.PHONY: format
format: ## lay out the code as .clang-format says
	clang-format -i $$(git ls-files '*.[ch]')

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(B)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

-include $(shell find $(B) -name '*.d' 2>/dev/null)
