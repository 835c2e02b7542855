from sketch import *
D=[debd('ad',q).float() for q in ('train','valid','test')]
base=dict(K=16,T=1,epochs=30,data=D,patience=5,pc=.0003,conc=.03,bs=820,lr=(.9,.2),lpc=.01,leaf='half')
def go(tag,**k): show('ad '+tag,run('ad',**{**base,**k}))
go('K16 half bs820')
go('T4 K16 half bs820',T=4)
go('T1 K32',K=32)
go('T1 K16 lpc.03 pc.003',lpc=.03,pc=.003)
