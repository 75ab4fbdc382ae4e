/* Threads that wait for parts of an operation: made when first needed, and anew after a fork. */

#define _GNU_SOURCE

#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define MOST_THREADS 64

static pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER; /* by one caller at a time */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* of all below */
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static int workers, pending;
static uint64_t turn;
static struct {
    operation_function *function;
    const struct operation *operation;
    struct context context;
} job;

static void *work(void *number)
{
    int part = (int)(intptr_t)number;
    uint64_t seen = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (turn == seen || part >= job.context.parts) {
            seen = turn;
            pthread_cond_wait(&begun, &lock);
        }
        seen = turn;
        struct context own = job.context;
        operation_function *function = job.function;
        const struct operation *operation = job.operation;
        pthread_mutex_unlock(&lock);
        own.part = part;
        function(operation, &own);
        pthread_mutex_lock(&lock);
        if (--pending == 0)
            pthread_cond_signal(&done);
    }
    return 0;
}

/* In a child process there is no thread but one, and nobody holds what another one held. */
static void forget(void)
{
    pthread_mutex_init(&in_use, 0);
    pthread_mutex_init(&lock, 0);
    pthread_cond_init(&begun, 0);
    pthread_cond_init(&done, 0);
    workers = pending = 0;
    turn = 0;
}

static void make(int wanted)
{
    static int watches_forks;
    sigset_t all, before;
    if (!watches_forks)
        watches_forks = !pthread_atfork(0, 0, forget);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of others */
    while (watches_forks && workers + 1 < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, 0, work, (void *)(intptr_t)(workers + 1)))
            break;
        pthread_detach(thread);
        workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

int run_in_parts(operation_function *function, const struct operation *o, struct context context,
                 int parts)
{
    if (parts > MOST_THREADS)
        parts = MOST_THREADS;
    if (pthread_mutex_trylock(&in_use))
        return 0;
    pthread_mutex_lock(&lock);
    make(parts);
    if (parts > workers + 1)
        parts = workers + 1;
    context.parts = parts;
    context.part = 0;
    job.function = function;
    job.operation = o;
    job.context = context;
    pending = parts - 1;
    turn++;
    pthread_cond_broadcast(&begun);
    pthread_mutex_unlock(&lock);
    function(o, &context);
    pthread_mutex_lock(&lock);
    while (pending)
        pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&in_use);
    return 1;
}
