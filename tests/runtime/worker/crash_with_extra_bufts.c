/* Preloaded into a worker: the first graph that llama.cpp computes ends in SIGSEGV (or the signal of
 * this number in CRASH_SIGNAL), as with a library that was compiled wrongly, but only when weight repacking (extra buffer types) is on, or
 * CRASH_ALWAYS is set. Each start of a process adds a byte to the file CRASH_STARTS.
 *
 * libllama asks for the extra buffer types by name through a function of libggml-base, and starts
 * a computation through another one. Both calls go through its table of symbols, where what was
 * preloaded comes first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int repacks;

__attribute__((constructor)) static void started(void) {
    const char *path = getenv("CRASH_STARTS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fputc('x', file);
    fclose(file);
}

static void *real(const char *name) {
    void *library = dlopen("libggml-base.so.0", RTLD_NOLOAD | RTLD_LAZY);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) abort();
    return function;
}

void *ggml_backend_reg_get_proc_address(void *reg, const char *name) {
    if (!strcmp(name, "ggml_backend_dev_get_extra_bufts")) repacks = 1;
    return ((void *(*)(void *, const char *))real("ggml_backend_reg_get_proc_address"))(reg, name);
}

int ggml_backend_sched_graph_compute_async(void *sched, void *graph) {
    const char *signal = getenv("CRASH_SIGNAL");
    if (repacks || getenv("CRASH_ALWAYS")) raise(signal ? atoi(signal) : SIGSEGV);
    return ((int (*)(void *, void *))real("ggml_backend_sched_graph_compute_async"))(sched, graph);
}
