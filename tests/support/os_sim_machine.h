/* SPDX-License-Identifier: MIT
 *
 * What the files of the simulated system share: the machine, its files and handles, and the point that every call
 * passes.
 */
#ifndef KM_TESTS_OS_SIM_MACHINE_H
#define KM_TESTS_OS_SIM_MACHINE_H

#include <pthread.h>

#include "os/os_posix.h"
#include "os_sim_content.h"

struct sim_range {
    uint64_t offset, length;
};

/* A file with or without names. */
struct sim_file {
    uint64_t inode;
    unsigned references; /* names, now or durable, and handles */
    uint64_t links;      /* names now */
    uint32_t permissions;
    bool is_object; /* backed by the paging file: nothing of it survives a power cut */
    int cache;      /* memory file: the page cache */
    struct sim_content content;
    struct sim_range *stored; /* what was ever mapped writable */
    size_t stored_count;
    struct sim_lock *locks;
    struct sim_file *next; /* all files of the machine */
};

struct sim_name {
    char *path;
    struct sim_file *file;    /* now; NULL: there is none */
    struct sim_file *durable; /* after a power cut that loses the change; the same as `file` if nothing is pending */
    uint64_t write;           /* number of the change */
    struct sim_name *next;
};

struct os_file {
    struct sim_file *file;
    char *path;
    bool writable;
    uint64_t epoch; /* of the machine when it was opened: another now means that the handle is dead */
    struct os__guard *guard;
};

struct sim_fault {
    uint64_t n, count;
    int code;
};

/* The one machine. Everything in it is protected by `mutex`. */
struct sim_machine {
    pthread_mutex_t mutex;
    uint64_t epoch;
    uint64_t random;
    uint64_t now_ns;
    uint64_t next_inode;
    uint64_t writes; /* numbers of the writes so far */
    uint64_t boot;   /* which start of the machine this is */
    uint64_t boots;  /* starts since the reset, for the next one's number */
    bool clones;     /* files can share blocks */
    struct sim_file *files;
    struct sim_name *names;
    bool cut;
    uint64_t steps, syncs, failures;
    uint64_t cut_in_steps, cut_in_syncs; /* 0: not armed */
    struct sim_fault faults[OS_SIM_OPERATION_COUNT];
    void (*on_cut)(void *);
    void *on_cut_context;
    os_sim_watcher *watcher;
    void *watcher_context;
};

extern struct sim_machine sim;

/**
 * Every call passes here first, with the mutex held. 0: go on; else the error to return. Steps may find that the power
 * is cut, that it is cut now, or that their handle is dead. The mutex is let go of while the test's functions run.
 */
int sim_pass(enum os_sim_operation operation, uint64_t epoch, const char *path);

/** Note what was stored through writable mappings of a file. */
void sim_file_absorb(struct sim_file *file);

/** Have the machine look for stores in a range of a file from now on: it is mapped writable. */
void sim_file_remember_stores(struct sim_file *file, uint64_t offset, uint64_t length);

/** What was just written to a file: of one that no power cut survives nothing is ever pending. */
void sim_file_settle(struct sim_file *file, uint64_t offset, uint64_t length);

/** A file with this content, which it takes over; nobody refers to it yet. */
struct sim_file *sim_file_make(uint64_t inode, struct sim_content content, uint32_t permissions, bool is_object);
void sim_file_release(struct sim_file *file); /* NULL allowed */

/** The name `path`; with `make` never NULL. It may stand for no file. */
struct sim_name *sim_name_find(const char *path, bool make);
void sim_name_set(struct sim_name *name, struct sim_file *file);
void sim_name_sync(struct sim_name *name);

#endif
