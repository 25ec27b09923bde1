"""The kinds of sandbox that need nothing installed: namespaces of our own, and a filter of system calls with Landlock.

::

    launch      the program that makes a sandbox and keeps watch over what runs in it
    namespaces  new namespaces of every kind, and a file system of nothing but what the plan names
    confined    the VM's own file system, of which Landlock shows only what the plan names, and no network by seccomp
    landlock, seccomp, kernel   what these ask of the Linux kernel
"""
