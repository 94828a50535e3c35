# SPDX-License-Identifier: MIT
#
# keepmap's build. `make help` lists the targets. All output goes to $(BUILD), `build` by default; a different BUILD keeps
# the objects of another compiler or another set of options apart: make BUILD=build/clang CC=clang
#
# Which files make up the program is decided here, not by #ifdef: what depends on the processor, on zlib or on the system
# is a file of its own, and "Sources" below picks it.

BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config

# 1: with zlib, 0: without. Found by pkg-config unless given.
ZLIB ?= $(shell $(PKG_CONFIG) --exists zlib 2>/dev/null && echo 1 || echo 0)
# 1: with libfuse3, for the disk that records what it is asked to do. Found by pkg-config unless given.
FUSE ?= $(shell $(PKG_CONFIG) --exists fuse3 2>/dev/null && echo 1 || echo 0)
# Sanitizers of all objects, as for -fsanitize=: address,undefined or thread. Empty: none.
SANITIZE ?=
# The packages (Debian's names) that the tests need, and those that the demo uses where it can get them.
TEST_PACKAGES := libc6-dev pkg-config zlib1g-dev libcmocka-dev bats jq binutils clang patch
SANITIZE_PACKAGES := libc6-dev pkg-config zlib1g-dev libcmocka-dev clang libclang-rt-dev
FUZZ_PACKAGES := libc6-dev pkg-config zlib1g-dev libcmocka-dev clang libclang-rt-dev llvm
DISK_PACKAGES := libfuse3-dev fuse3 e2fsprogs xfsprogs btrfs-progs
DEMO_PACKAGES := libc6-dev pkg-config zlib1g-dev wamerican
# The second compiler of `make test`, and the one of `make sanitize`.
OTHER_CC ?= $(if $(findstring clang,$(CC)),gcc,clang)
SANITIZE_CC ?= clang

VERSION := $(shell sed -n 's/^.define KM_VERSION "\(.*\)"$$/\1/p' include/keepmap.h)
# Before 1.0 a minor version may change the interface.
SONAME := libkeepmap.so.$(if $(filter 0.%,$(VERSION)),$(basename $(VERSION)),$(firstword $(subst ., ,$(VERSION))))

# ---- Flags -----------------------------------------------------------------------------------------------------------

CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE $(WARNINGS) -fPIC -fvisibility=hidden -pthread $(CFLAGS)
INCLUDES := -Iinclude -Isrc
ALL_LDFLAGS := -pthread $(LDFLAGS)
LIBRARIES :=
ifeq ($(ZLIB),1)
ALL_CFLAGS += $(shell $(PKG_CONFIG) --cflags zlib)
LIBRARIES += $(shell $(PKG_CONFIG) --libs zlib)
endif
ifneq ($(SANITIZE),)
ALL_CFLAGS += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
ALL_LDFLAGS += -fsanitize=$(SANITIZE)
endif

# ---- Sources ---------------------------------------------------------------------------------------------------------

MACHINE := $(shell $(CC) -dumpmachine)
ifneq ($(filter x86_64-% amd64-%,$(MACHINE)),)
CRC32C := src/format/crc32c_x86.c
else ifneq ($(filter aarch64-% arm64-%,$(MACHINE)),)
CRC32C := src/format/crc32c_arm.c
else
CRC32C := src/format/crc32c_generic.c
endif
ZLIB_SOURCE := $(if $(filter 1,$(ZLIB)),src/format/zlib_on.c,src/format/zlib_off.c)

FORMAT_VARIANTS := src/format/crc32c_x86.c src/format/crc32c_arm.c src/format/crc32c_generic.c \
                   src/format/zlib_on.c src/format/zlib_off.c
FORMAT_SOURCES := $(filter-out $(FORMAT_VARIANTS),$(wildcard src/format/*.c)) $(wildcard $(CRC32C) $(ZLIB_SOURCE))
OS_SOURCES := $(wildcard src/os/os_*_posix.c src/os/os_*_linux.c)
MAP_SOURCES := $(wildcard src/map/*.c src/os/error.c)
CLI_SOURCES := $(wildcard src/cli/*.c)

# Tests: a program for each test_*.c; the other files beside them, and those of tests/support, are at hand for all of them.
TEST_SOURCES := $(wildcard tests/unit/test_*.c tests/model/test_*.c tests/concurrent/test_*.c tests/compat/test_*.c \
                  tests/scenario/test_*.c)
FAULT_SOURCES := $(wildcard tests/faults/test_*.c)
CRASH_SOURCES := $(wildcard tests/crash/test_*.c)
SIM_TOOL_SOURCES := tests/support/tool_golden.c
TOOL_SOURCES := $(filter-out $(SIM_TOOL_SOURCES),$(wildcard tests/support/tool_*.c))
SIM_SOURCES := $(wildcard tests/support/os_sim*.c)
SUPPORT_SOURCES := $(filter-out $(TEST_SOURCES) $(CRASH_SOURCES) $(TOOL_SOURCES) $(SIM_TOOL_SOURCES) $(SIM_SOURCES), \
                     $(wildcard tests/support/*.c tests/unit/*.c tests/model/*.c tests/concurrent/*.c tests/crash/*.c \
                                tests/scenario/*.c))
# A fuzz target is a function (fuzz_*.c). With replay.c it is a program that runs kept inputs; with clang's libFuzzer, in a
# build of its own, one that looks for new ones. The other files of tests/fuzz are at hand for all targets.
FUZZ_SOURCES := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_SUPPORT := $(filter-out $(FUZZ_SOURCES) tests/fuzz/replay.c,$(wildcard tests/fuzz/*.c))
# Calls of the system that the fault tests make fail, one a line.
FAULT_CALLS := $(shell grep -v '^\#' tests/faults/calls 2>/dev/null)
# The disk that loses power: without libfuse3 there is nothing to record it with, and tests/disk/check says so.
DISK_SOURCES := $(filter-out $(if $(filter 1,$(FUSE)),,tests/disk/recorder.c),$(wildcard tests/disk/*.c))
BENCH_SOURCES := $(wildcard tests/bench/*.c)
EXAMPLE_SOURCES := $(wildcard docs/examples/*.c)

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIBRARY_OBJECTS := $(call objects,$(MAP_SOURCES) $(FORMAT_SOURCES) $(OS_SOURCES))
CLI_OBJECTS := $(call objects,$(CLI_SOURCES))
SUPPORT_OBJECTS := $(call objects,$(SUPPORT_SOURCES))
SIM_OBJECTS := $(call objects,$(MAP_SOURCES) $(FORMAT_SOURCES) $(SIM_SOURCES))
BENCH_OBJECTS := $(call objects,$(BENCH_SOURCES))

program = $(addprefix $(BUILD)/tests/,$(notdir $(basename $(1))))
TEST_PROGRAMS := $(call program,$(TEST_SOURCES))
CRASH_PROGRAMS := $(call program,$(CRASH_SOURCES))
FAULT_PROGRAMS := $(call program,$(FAULT_SOURCES))
REPLAY_PROGRAMS := $(call program,$(FUZZ_SOURCES))
TOOL_PROGRAMS := $(call program,$(TOOL_SOURCES) $(SIM_TOOL_SOURCES) $(DISK_SOURCES))
EXAMPLE_PROGRAMS := $(patsubst docs/%.c,$(BUILD)/%,$(EXAMPLE_SOURCES))

# ---- Targets ---------------------------------------------------------------------------------------------------------

.PHONY: all help library tests test test-crash test-kill test-disk test-mutations test-fuzz fuzzers fuzz-coverage replays sanitize check-model \
        check-layout check-documents bench demo golden format check-format clean
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:

all: library $(BUILD)/keepmap ## build the tool and both libraries (the default)

library: $(BUILD)/libkeepmap.a $(BUILD)/libkeepmap.so ## build libkeepmap.a and libkeepmap.so

tests: all $(TEST_PROGRAMS) $(CRASH_PROGRAMS) $(FAULT_PROGRAMS) $(REPLAY_PROGRAMS) $(TOOL_PROGRAMS) $(EXAMPLE_PROGRAMS) ## build the test programs and the examples

help: ## list the targets and the variables
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '  %-18s%s\n' "$$name" "$$text"; done
	@echo "Variables (now):"
	@printf '  %-18s%s\n' CC "the compiler, gcc or clang ($(CC))" CFLAGS "optimisation and debugging ($(CFLAGS))" \
	    ZLIB "1 with zlib, 0 without ($(ZLIB))" FUSE "1 with libfuse3, 0 without ($(FUSE))" \
	    SANITIZE "address,undefined or thread ($(SANITIZE))" \
	    BUILD "where all output goes ($(BUILD))" V "1 to see the commands"

# What was found when make started can be out of date once packages have been installed, so the work is done by a new make.
test: ## install what is missing, build, run all tests; ends with "N passed, N failed"
	@tests/install-packages $(TEST_PACKAGES)
	@tests/install-packages --optional $(DISK_PACKAGES)
	@$(MAKE) --no-print-directory tests
	@BUILD=$(BUILD) MAKE="$(MAKE)" OTHER_CC=$(OTHER_CC) tests/run

# How much the long forms do (DISK_IMAGES: of each file system). SEED repeats a run.
IMAGES ?= 1000000
DISK_IMAGES ?= 200
MINUTES ?= 10
SECONDS ?= 120
SEED ?=

test-crash: ## cut the power IMAGES times on the simulated system, on all cores
	@tests/install-packages $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory $(BUILD)/tests/test_power
	@KEEPMAP_IMAGES=$(IMAGES) KEEPMAP_SEED=$(SEED) $(BUILD)/tests/test_power

test-kill: ## kill and stop processes at random for MINUTES
	@tests/install-packages $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory $(BUILD)/tests/test_kill $(BUILD)/tests/test_live
	@KEEPMAP_MINUTES=$(MINUTES) KEEPMAP_SEED=$(SEED) $(BUILD)/tests/test_kill
	@KEEPMAP_MINUTES=$(MINUTES) KEEPMAP_SEED=$(SEED) $(BUILD)/tests/test_live

test-disk: ## cut the power of ext4, xfs and btrfs on a disk that records writes and flushes (root and FUSE)
	@tests/install-packages $(TEST_PACKAGES)
	@tests/install-packages --optional $(DISK_PACKAGES)
	@$(MAKE) --no-print-directory tests
	@BUILD=$(BUILD) MAKE="$(MAKE)" KEEPMAP_IMAGES=$(DISK_IMAGES) KEEPMAP_SEED=$(SEED) tests/run disk

test-mutations: ## take each rule of the protocol out, and show which test fails
	@tests/install-packages $(TEST_PACKAGES)
	@BUILD=$(BUILD) MAKE="$(MAKE)" tests/mutations/run

# Fuzzers need clang and a build of their own.
FUZZ_BUILD = $(BUILD)/fuzz
FUZZ_MAKE = $(MAKE) --no-print-directory BUILD=$(FUZZ_BUILD) CC=$(SANITIZE_CC) CFLAGS='-O1 -g' \
            SANITIZE=fuzzer-no-link,address,undefined
test-fuzz: ## look for inputs that break something, for SECONDS in all
	@tests/install-packages $(FUZZ_PACKAGES)
	@$(FUZZ_MAKE) fuzzers
	@BUILD=$(FUZZ_BUILD) SECONDS_IN_ALL=$(SECONDS) SEED=$(SEED) tests/fuzz/run

fuzz-coverage: ## what the kept inputs, and those found so far, reach of the code that reads files
	@tests/install-packages $(FUZZ_PACKAGES)
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/coverage CC=$(SANITIZE_CC) CFLAGS='-O1 -g -fprofile-instr-generate -fcoverage-mapping' \
	    LDFLAGS=-fprofile-instr-generate replays
	@BUILD=$(BUILD)/coverage FOUND=$(FUZZ_BUILD) tests/fuzz/coverage

replays: $(REPLAY_PROGRAMS)

fuzzers: $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(FUZZ_SOURCES)) $(REPLAY_PROGRAMS) # by test-fuzz, which sets CC and SANITIZE

sanitize: ## run the tests under the address, undefined-behaviour and thread sanitizers
	@tests/install-packages $(SANITIZE_PACKAGES)
	@BUILD=$(BUILD) MAKE="$(MAKE)" SANITIZE_CC=$(SANITIZE_CC) tests/run sanitize

check-model: ## check the protocol models with spin
	@tests/install-packages spin gcc libc6-dev
	@docs/model/check

check-layout: all ## who may include whom, and which symbols the libraries export
	@BUILD=$(BUILD) tests/check-layout

check-documents: all ## compile or run every code block of the documents
	@BUILD=$(BUILD) CC=$(CC) tests/check-documents

bench: $(BUILD)/bench/bench ## measure commits, reads and opens beside the disk itself
	$(BUILD)/bench/bench

# A file's name is nothing for make or the shell to read.
override FILE := $(value FILE)
export FILE
demo: ## two processes share a map, and a worker is killed again and again and loses nothing: make demo [FILE=text]
	@tests/install-packages --optional $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory --silent $(BUILD)/keepmap $(BUILD)/examples/count
	@BUILD=$(BUILD) tests/demo

golden: $(BUILD)/tests/tool_golden $(BUILD)/keepmap ## make the golden and damaged files that are missing in data/
	$< data
	@KEEPMAP=$(BUILD)/keepmap tests/compat/listing --make data/golden

STYLED = $(wildcard include/*.h src/*/*.[ch] tests/*/*.[ch] docs/examples/*.[ch])
format: ## bring the sources into shape with clang-format
	clang-format -i $(STYLED)

check-format: ## tell what clang-format would change
	clang-format --dry-run -Werror $(STYLED)

clean: ## remove all output
	rm -rf $(BUILD)

# ---- Rules -----------------------------------------------------------------------------------------------------------

# Each step says one line; make V=1 shows the commands.
Q := $(if $(V),,@)
say = @printf '  %-5s %s\n' $(1) $(2)

# Everything depends on how it is compiled: another compiler or other flags in the same BUILD compile it again.
SETTINGS := $(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBRARIES) $(MACHINE)
$(BUILD)/settings: FORCE
	@mkdir -p $(@D)
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' > $@
.PHONY: FORCE

$(BUILD)/obj/%.o: %.c $(BUILD)/settings
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) $(INCLUDES) -MMD -MP -c -o $@ $<

# Tests see the internal interfaces, and each other's support. The tool and the examples see the public header alone.
$(BUILD)/obj/tests/%.o: INCLUDES := -Iinclude -Isrc -Itests -Itests/support
$(BUILD)/obj/src/cli/%.o $(BUILD)/obj/docs/%.o: INCLUDES := -Iinclude

# One object whose internal names are local, so that a program that links libkeepmap.a cannot collide with them.
$(BUILD)/libkeepmap.o: $(LIBRARY_OBJECTS)
	$(Q)$(CC) -r -nostdlib -o $@ $^
	$(Q)$(OBJCOPY) --localize-hidden $@

$(BUILD)/libkeepmap.a: $(BUILD)/libkeepmap.o
	@rm -f $@
	$(call say,AR,$@)
	$(Q)$(AR) rcs $@ $<

$(BUILD)/libkeepmap.so.$(VERSION): $(LIBRARY_OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(CC) -shared -Wl,-soname,$(SONAME) -Wl,-z,defs $(ALL_LDFLAGS) -o $@ $^ $(LIBRARIES)

$(BUILD)/$(SONAME): $(BUILD)/libkeepmap.so.$(VERSION)
	@ln -sf $(<F) $@

$(BUILD)/libkeepmap.so: $(BUILD)/$(SONAME)
	@ln -sf $(<F) $@

$(BUILD)/keepmap: $(CLI_OBJECTS) $(BUILD)/libkeepmap.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBRARIES)

$(BUILD)/examples/%: $(BUILD)/obj/docs/examples/%.o $(BUILD)/libkeepmap.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBRARIES)

# Archives for the tests alone: internal names visible, and the linker takes only what a test needs. `sim` has the system
# whose disk can lose power in the place of the real one.
$(BUILD)/tests/libinternal.a: $(LIBRARY_OBJECTS)
$(BUILD)/tests/libsim.a: $(SIM_OBJECTS)
$(BUILD)/tests/libsupport.a: $(SUPPORT_OBJECTS)
$(BUILD)/tests/lib%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)$(AR) rcs $@ $^

define link-test
@mkdir -p $(@D)
$(call say,LINK,$@)
$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBRARIES)
endef

define test-program
$(call program,$(1)): $(call objects,$(1)) $(BUILD)/tests/libsupport.a $(BUILD)/tests/lib$(2).a
	$$(link-test)
endef
$(foreach source,$(TEST_SOURCES) $(TOOL_SOURCES) $(filter-out tests/disk/recorder.c,$(DISK_SOURCES)),$(eval $(call test-program,$(source),internal)))
$(foreach source,$(CRASH_SOURCES) $(SIM_TOOL_SOURCES),$(eval $(call test-program,$(source),sim)))

$(BUILD)/obj/tests/disk/recorder.o: INCLUDES += $(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags fuse3))
$(BUILD)/tests/recorder: $(BUILD)/obj/tests/disk/recorder.o
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(shell $(PKG_CONFIG) --libs fuse3)

# Each call of the system named in tests/faults/calls goes to __wrap_NAME, which the tests define.
$(FAULT_PROGRAMS): $(BUILD)/tests/%: $(BUILD)/obj/tests/faults/%.o \
        $(call objects,$(filter-out $(FAULT_SOURCES),$(wildcard tests/faults/*.c))) \
        $(BUILD)/tests/libsupport.a $(BUILD)/tests/libinternal.a tests/faults/calls
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) $(addprefix -Wl$(comma)--wrap=,$(FAULT_CALLS)) -o $@ $(filter %.o %.a,$^) -lcmocka $(LIBRARIES)

comma := ,
FUZZ_OBJECTS := $(call objects,$(FUZZ_SUPPORT))
FUZZ_ARCHIVES := $(BUILD)/tests/libsupport.a $(BUILD)/tests/libsim.a
$(REPLAY_PROGRAMS): $(BUILD)/tests/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/replay.o $(FUZZ_OBJECTS) $(FUZZ_ARCHIVES)
	$(link-test)

$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(FUZZ_OBJECTS) $(FUZZ_ARCHIVES)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ -lcmocka $(LIBRARIES)

$(BUILD)/bench/bench: $(BENCH_OBJECTS) $(BUILD)/tests/libsupport.a $(BUILD)/libkeepmap.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBRARIES)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
